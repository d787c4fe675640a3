"""Text classification, and regression on texts: transformers' encoders, GLUE, tables, WordNet's glosses."""
