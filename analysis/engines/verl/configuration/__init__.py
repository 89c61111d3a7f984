"""verl's configuration: composed as verl does it, checked before Ray starts, and trained."""
