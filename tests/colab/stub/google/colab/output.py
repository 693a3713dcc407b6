"""As on Colab, third-party widgets need a manager, which is enabled by a call."""


class _Widgets:
    _installed_url: str | None = None


_widgets = _Widgets()


def enable_custom_widget_manager() -> None:
    """Note that it was called; the real one loads the manager from this place."""
    _widgets._installed_url = "https://ssl.gstatic.com/colaboratory-static/widgets/manager.min.js"
