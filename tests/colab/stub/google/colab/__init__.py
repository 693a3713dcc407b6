"""A stand-in for the part of Google's package that anywidget asks for (`make colab`)."""
