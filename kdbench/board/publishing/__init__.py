"""What others see of results: publish, validate, merge, and the files of a published folder."""
