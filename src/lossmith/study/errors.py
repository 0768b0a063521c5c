"""The one exception of a study, and how other people's exceptions become one line."""


class StudyError(ValueError):
    """A study cannot be run as asked; the message is one line that says what came and what was wanted."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one line: its type when the message alone would not explain itself, and its message."""
    text = " ".join(str(error).split())
    if isinstance(error, StudyError):
        return text
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
