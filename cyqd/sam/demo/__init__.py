"""The demo's data and model: four synthetic segmentation domains and a tiny SAM, all made from a seed."""
