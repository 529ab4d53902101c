"""What ``bo-tune doctor`` asks of a host, in processes that may hang without holding anybody up."""
