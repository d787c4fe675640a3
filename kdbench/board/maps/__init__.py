"""Maps: what distillation gains where the places of a suite differ in one number or two."""
