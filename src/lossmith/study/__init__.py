"""Compare objectives honestly: the same data, model, seeds and tuning budget for each."""

from lossmith.study.budget import parse_time
from lossmith.study.comparing import Answer, compare
from lossmith.study.data.corruption import Noise
from lossmith.study.data.dataset import Dataset, Roles
from lossmith.study.data.sources import load_data
from lossmith.study.engine import Part, check, run, run_shard
from lossmith.study.errors import StudyError
from lossmith.study.grid import grid, load_all, load_all_united, run_all
from lossmith.study.loading import load
from lossmith.study.mislabelled import Suspects, suspects
from lossmith.study.results import Curves, Outcome, StudyResult
from lossmith.study.spec import LEARNING_RATES, ObjectiveSpec, StudySpec, TrialSpec
from lossmith.study.store import Store
from lossmith.study.training.trial import run_trial, run_trials
from lossmith.study.union import load_united, unite

__all__ = [
    "LEARNING_RATES",
    "Answer",
    "Curves",
    "Dataset",
    "Noise",
    "ObjectiveSpec",
    "Outcome",
    "Part",
    "Roles",
    "Store",
    "StudyError",
    "StudyResult",
    "StudySpec",
    "Suspects",
    "TrialSpec",
    "check",
    "compare",
    "grid",
    "load",
    "load_all",
    "load_all_united",
    "load_data",
    "load_united",
    "parse_time",
    "run",
    "run_all",
    "run_shard",
    "run_trial",
    "run_trials",
    "suspects",
    "unite",
]
