"""Opens a database: its URL, its settings, and how to open one that may only be read."""

import logging

# A signal that comes while a connection is being closed interrupts the closing. SQLAlchemy logs that with a traceback,
# and raises it again. Without a handler, Python would print what is logged to stderr.
logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())
