"""ARFF files, the format of OpenML and Weka."""

from pathlib import Path

import numpy as np
import pandas as pd

from lossmith.study.errors import StudyError, one_line


def read_arff(path: Path) -> pd.DataFrame:
    """An ARFF file as a data frame; ``?`` is missing."""
    from scipy.io import arff

    try:
        values, _ = arff.loadarff(str(path))
    except NotImplementedError as error:
        raise StudyError(f"{path.name} cannot be read: {one_line(error)}; save it as CSV") from None
    frame = pd.DataFrame(values)
    for name in [name for name in frame.columns if frame[name].dtype.kind == "O"]:
        words = frame[name].map(lambda value: value.decode("utf-8") if isinstance(value, bytes) else value).astype(object)
        frame[name] = words.where(words != "?", np.nan)
    return frame
