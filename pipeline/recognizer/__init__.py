"""A trained classifier, ready to run on new videos and on streams."""
