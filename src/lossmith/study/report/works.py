"""The works that a study can rest on, as BibTeX, and which of them one does: the software, the tuner, the tests, the probes.

An objective's own source is in its card; see :mod:`lossmith.citation`.
"""

from collections.abc import Iterator

from lossmith import citation
from lossmith.study.data.sources import BUNDLED
from lossmith.study.grid import Claim
from lossmith.study.summary import Summary
from lossmith.study.training.trees import TREES


def _work(kind: str, key: str, **fields: str) -> str:
    width = max(map(len, fields))
    return "\n".join([f"@{kind}{{{key},", *(f"  {name.ljust(width)} = {{{value}}}," for name, value in fields.items()), "}"])


NEURIPS, ICLR = "Advances in Neural Information Processing Systems", "International Conference on Learning Representations"
KDD = "Proceedings of the {} ACM SIGKDD International Conference on Knowledge Discovery and Data Mining"

WORKS = {
    "pytorch": _work(
        "inproceedings", "paszke2019",
        author="Paszke, Adam and Gross, Sam and Massa, Francisco and Lerer, Adam and Bradbury, James and Chanan, Gregory and others",
        title="{PyTorch}: An Imperative Style, High-Performance Deep Learning Library", booktitle=NEURIPS, volume="32", year="2019",
    ),
    "scikit-learn": _work(
        "article", "pedregosa2011",
        author='Pedregosa, Fabian and Varoquaux, Ga{\\"e}l and Gramfort, Alexandre and Michel, Vincent and Thirion, Bertrand and others',
        title="Scikit-learn: Machine Learning in {Python}", journal="Journal of Machine Learning Research", volume="12",
        pages="2825--2830", year="2011",
    ),
    "xgboost": _work(
        "inproceedings", "chen2016", author="Chen, Tianqi and Guestrin, Carlos", title="{XGBoost}: A Scalable Tree Boosting System",
        booktitle=KDD.format("22nd"), pages="785--794", year="2016", doi="10.1145/2939672.2939785",
    ),
    "lightgbm": _work(
        "inproceedings", "ke2017",
        author="Ke, Guolin and Meng, Qi and Finley, Thomas and Wang, Taifeng and Chen, Wei and Ma, Weidong and Ye, Qiwei and Liu, Tie-Yan",
        title="{LightGBM}: A Highly Efficient Gradient Boosting Decision Tree", booktitle=NEURIPS, volume="30", year="2017",
    ),
    "AdamW": _work(
        "inproceedings", "loshchilov2019", author="Loshchilov, Ilya and Hutter, Frank", title="Decoupled Weight Decay Regularization",
        booktitle=ICLR, year="2019", eprint="1711.05101", archiveprefix="arXiv",
    ),
    "Halton": _work(
        "article", "halton1960", author="Halton, J. H.",
        title="On the Efficiency of Certain Quasi-Random Sequences of Points in Evaluating Multi-Dimensional Integrals",
        journal="Numerische Mathematik", volume="2", pages="84--90", year="1960", doi="10.1007/BF01386213",
    ),
    "scrambling": _work(
        "misc", "owen2017", author="Owen, A. B.", title="A Randomized {Halton} Algorithm in {R}", year="2017", eprint="1706.02808",
        archiveprefix="arXiv",
    ),
    "Optuna": _work(
        "inproceedings", "akiba2019",
        author="Akiba, Takuya and Sano, Shotaro and Yanase, Toshihiko and Ohta, Takeru and Koyama, Masanori",
        title="{Optuna}: A Next-generation Hyperparameter Optimization Framework", booktitle=KDD.format("25th"), pages="2623--2631",
        year="2019", doi="10.1145/3292500.3330701",
    ),
    "TPE": _work(
        "inproceedings", "bergstra2011", author="Bergstra, James and Bardenet, R{\\'e}mi and Bengio, Yoshua and K{\\'e}gl, Bal{\\'a}zs",
        title="Algorithms for Hyper-Parameter Optimization", booktitle=NEURIPS, volume="24", year="2011",
    ),
    "Thresholdout": _work(
        "article", "dwork2015",
        author="Dwork, Cynthia and Feldman, Vitaly and Hardt, Moritz and Pitassi, Toniann and Reingold, Omer and Roth, Aaron",
        title="The Reusable Holdout: Preserving Validity in Adaptive Data Analysis", journal="Science", volume="349", number="6248",
        pages="636--638", year="2015", doi="10.1126/science.aaa9375",
    ),
    "corrected_t": _work(
        "article", "nadeau2003", author="Nadeau, Claude and Bengio, Yoshua", title="Inference for the Generalization Error",
        journal="Machine Learning", volume="52", number="3", pages="239--281", year="2003",
    ),
    "folds": _work(
        "inproceedings", "bouckaert2004", author="Bouckaert, Remco R. and Frank, Eibe",
        title="Evaluating the Replicability of Significance Tests for Comparing Learning Algorithms",
        booktitle="Advances in Knowledge Discovery and Data Mining", pages="3--12", year="2004", doi="10.1007/978-3-540-24775-3_3",
    ),
    "signed_rank": _work(
        "article", "wilcoxon1945", author="Wilcoxon, F.", title="Individual Comparisons by Ranking Methods",
        journal="Biometrics Bulletin", volume="1", number="6", pages="80--83", year="1945", doi="10.2307/3001968",
    ),
    "anytime_t": citation.entry(
        "Wang & Ramdas 2024, 'Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance', arXiv:2310.03722"
    ),
    "Holm": _work(
        "article", "holm1979", author="Holm, Sture", title="A Simple Sequentially Rejective Multiple Test Procedure",
        journal="Scandinavian Journal of Statistics", volume="6", number="2", pages="65--70", year="1979",
    ),
    "ranks": _work(
        "article", "demsar2006", author="Dem{\\v{s}}ar, Janez", title="Statistical Comparisons of Classifiers over Multiple Data Sets",
        journal="Journal of Machine Learning Research", volume="7", pages="1--30", year="2006",
    ),
    "chances": _work(
        "article", "corani2015", author="Corani, G. and Benavoli, A.",
        title="A {Bayesian} Approach for Comparing Cross-Validated Algorithms on Multiple Data Sets", journal="Machine Learning",
        volume="100", pages="285--304", year="2015", doi="10.1007/s10994-015-5486-z",
    ),
    "temperature": _work(
        "inproceedings", "guo2017", author="Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.",
        title="On Calibration of Modern Neural Networks", booktitle="International Conference on Machine Learning", pages="1321--1330",
        year="2017",
    ),
    "fgsm": _work(
        "inproceedings", "goodfellow2015", author="Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian",
        title="Explaining and Harnessing Adversarial Examples", booktitle=ICLR, year="2015", eprint="1412.6572", archiveprefix="arXiv",
    ),
    "pgd": _work(
        "inproceedings", "madry2018",
        author="Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian",
        title="Towards Deep Learning Models Resistant to Adversarial Attacks", booktitle=ICLR, year="2018", eprint="1706.06083",
        archiveprefix="arXiv",
    ),
    "collapse": _work(
        "article", "papyan2020", author="Papyan, Vardan and Han, X. Y. and Donoho, David L.",
        title="Prevalence of Neural Collapse during the Terminal Phase of Deep Learning Training",
        journal="Proceedings of the National Academy of Sciences", volume="117", number="40", pages="24652--24663", year="2020",
        doi="10.1073/pnas.2015509117",
    ),
    "max_probability": _work(
        "inproceedings", "hendrycks2017", author="Hendrycks, Dan and Gimpel, Kevin",
        title="A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks", booktitle=ICLR, year="2017",
        eprint="1610.02136", archiveprefix="arXiv",
    ),
    "energy": _work(
        "inproceedings", "liu2020", author="Liu, Weitang and Wang, Xiaoyun and Owens, John D. and Li, Yixuan",
        title="Energy-based Out-of-distribution Detection", booktitle=NEURIPS, year="2020", eprint="2010.03759", archiveprefix="arXiv",
    ),
    "corruptions": _work(
        "inproceedings", "hendrycks2019", author="Hendrycks, Dan and Dietterich, Thomas",
        title="Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", booktitle=ICLR, year="2019",
        eprint="1903.12261", archiveprefix="arXiv",
    ),
}  # fmt: skip
"""What a study used -> the entry of its source."""

PROBED = {
    "fgsm": "accuracy under the fast gradient sign method (Goodfellow et al. 2015)",
    "pgd": "accuracy under projected gradient descent (Madry et al. 2018)",
    "collapse": "neural collapse (Papyan et al. 2020)",
    "ood": "how rows of no class are told apart by the highest probability (Hendrycks and Gimpel 2017) and by energy (Liu et al. 2020)",
    "corruptions": "corruptions at five severities (after Hendrycks and Dietterich 2019)",
    "margins": "margins on training rows",
    "cost": "the cost of a step of the objective",
}
"""Kind of probe -> how a paper names it."""


def probed(summary: Summary) -> list[str]:
    """The kinds of the probes of a study, each once; those with names of their own are corruptions otherwise."""
    names = (name.partition(":")[0] for name in summary.spec.looked_at)
    return list(dict.fromkeys(name if name in PROBED else "corruptions" for name in names))


def used(summaries: tuple[Summary, ...], claim: Claim | None) -> Iterator[str]:
    """The entries of what studies rest on, those of the objectives apart; `claim` is that of several run together."""
    yield WORKS["pytorch"]
    spec = summaries[0].spec
    if any(one.spec.data in BUNDLED or one.spec.target is not None or one.standings for one in summaries):
        yield WORKS["scikit-learn"]
    yield WORKS[spec.model if spec.model in TREES else "AdamW"]
    searched = {"quasi_random": ("Halton", "scrambling"), "optuna": ("Optuna", "TPE")}
    yield from (WORKS[name] for name in searched.get(spec.tuner or "", ()))
    if any(line.estimate.scaled for one in summaries for line in one.lines("log_loss")):
        yield WORKS["temperature"]
    if spec.holdout == "thresholdout":
        yield WORKS["Thresholdout"]
    if len(spec.objectives) > 1:
        yield from _compared(summaries, claim)
    for kind in probed(summaries[0]):
        yield from (WORKS[name] for name in {"ood": ("max_probability", "energy")}.get(kind, (kind,)) if name in WORKS)


def _compared(summaries: tuple[Summary, ...], claim: Claim | None) -> Iterator[str]:
    """What a comparison rests on: of several studies the test of the claim, else that of the study."""
    first = summaries[0]
    test = {"these": "corrected_t", "alike": "signed_rank"}.get(claim or "", first.test)
    if test in WORKS:  # the plain paired t-test is in every textbook
        yield WORKS[test]
    if test == "corrected_t" and first.spec.folds is not None:
        yield WORKS["folds"]
    yield WORKS["Holm"]
    if claim is None and first.chances():
        yield WORKS["chances"]
    if claim is not None and len({one.result.data["fingerprint"] for one in summaries}) > 1:
        yield WORKS["ranks"]
