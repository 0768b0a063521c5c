"""The study's modules import one another in one direction only, the imports for types included."""

from graphlib import CycleError, TopologicalSorter

import pytest

grimp = pytest.importorskip("grimp")  # what import-linter reads imports with


def test_no_import_runs_in_a_circle() -> None:
    graph = grimp.build_graph("lossmith")
    study = {name for name in graph.modules if name.startswith("lossmith.study")}
    arrows = {name: graph.find_modules_directly_imported_by(name) & study for name in study}
    assert len(study) > 100
    assert "lossmith.study.declared" in arrows["lossmith.study.checks"]
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
