"""Noise reports as a store keeps them: beside the study they belong to, so that its page can be rebuilt with them and without the data."""

import hashlib
import json
import warnings

import numpy as np

from lossmith.study.errors import one_line
from lossmith.study.report.suspected import Suspects, content
from lossmith.study.store import Store
from lossmith.study.stored import NoiseReport, digest_of


def keep(found: Suspects, study: str, store: Store) -> None:
    """Keep what was found in the data of the study with this digest."""
    plain, probabilities = json.dumps(found.as_dict(), allow_nan=False), np.ascontiguousarray(found.probabilities, dtype=np.float64)
    store.put_noise_report(study, plain, probabilities.tobytes(), hashlib.sha256(content(found)).hexdigest())


def kept(study: str, store: Store) -> Suspects | None:
    """What was found in the data of the study with this digest; None where nothing is kept, or what is kept is damaged, with a warning."""
    for report in store.noise_reports(study):
        try:
            return _read(report)
        except (ValueError, TypeError, KeyError) as error:
            warnings.warn(
                f"{store.name}: the noise report of this study is damaged ({one_line(error)}) and left out; --noise-report makes it anew",
                stacklevel=2,
            )
    return None


def _read(report: NoiseReport) -> Suspects:
    if digest_of(report.study, report.found, report.probabilities.hex(), report.written) != report.digest:
        raise ValueError("its digest does not fit")
    plain = json.loads(report.found)
    probabilities = np.frombuffer(report.probabilities).reshape(len(plain["labels"]), len(plain["class_names"])).copy()
    return Suspects.from_dict(plain, probabilities)
