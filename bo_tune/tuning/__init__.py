"""One study: propose, compile, measure, store, and the race that ends it."""
