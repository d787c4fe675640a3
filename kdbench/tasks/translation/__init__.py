"""Translation: parallel text, encoder-decoders of transformers, decoders of our own, BLEU and chrF."""
