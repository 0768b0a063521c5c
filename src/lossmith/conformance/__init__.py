"""The suite that holds every objective to its word, ours and yours.

``check("focal_loss")`` examines a registered objective, ``check(my_loss, form="logits")`` a function of your own;
:func:`parametrize_with_checks` makes the same examination part of your pytest run. It needs neither pytest nor anything else than torch.
"""

from lossmith.conformance.registry import Check, Outcome
from lossmith.conformance.report import Report
from lossmith.conformance.suite import check as check
from lossmith.conformance.suite import checks, parametrize_with_checks

__all__ = ["Check", "Outcome", "Report", "check", "checks", "parametrize_with_checks"]
