"""Lists of names kept elsewhere: their formats, and copies of them on disk that are kept fresh."""
