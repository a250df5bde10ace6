"""A run folder, shown: one offline HTML page, or tables in a terminal.

Reads the JSON files of the folder only. Needs Jinja2 for the page and rich for the terminal; no
numpy, no torch, no plotting library: the pictures are SVG by hand, a few kilobytes each.
"""
