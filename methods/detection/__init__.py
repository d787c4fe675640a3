"""Methods for dense detectors: of the pyramid, of the head's towers, and of the boxes."""
