"""The demo's data and model: three small procedural tasks and a tiny Llama, all made from a seed."""
