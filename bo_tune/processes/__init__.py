"""Child processes that can be killed: started in milliseconds by a fork server, asked one thing at a time."""
