"""Published files: opening them safely, telling them apart, and bringing them into one form."""
