"""Pictures: plots with alt text, the palette, and a module for each topic's figures."""
