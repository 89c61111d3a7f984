"""What entries measure themselves, apart from the records of training runs."""
