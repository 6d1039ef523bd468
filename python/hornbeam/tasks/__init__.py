"""Tasks with exact verifiers and small models that were trained on them, to try searches on."""
