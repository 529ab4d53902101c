"""The database of studies: opening it, who may write what, studies and trials in and out."""
