"""The paper's tables and figures, measured on given models: one module each, files out."""
