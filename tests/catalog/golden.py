"""What the public reference implementations give for inputs that any language can make, in float64.

Each case is one run of a repository's own code at one commit: the value, and of its gradient toward the first
of the student's tensors the norm and the first four numbers.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.catalog.spec import LOSSES

# name: shape, a, b, s of s * sin(a k + b) + s / 2 * sin(0.629 a k + 2 b), k counting the numbers row by row
WAVES: dict[str, tuple[tuple[int, ...], float, float, float]] = {
    "zs": ((8, 10), 1.3, 0.2, 3.0),
    "zt": ((8, 10), 0.9, 0.7, 3.0),
    "fs": ((8, 16), 1.1, 0.4, 1.0),
    "ft": ((8, 32), 0.77, 0.1, 1.0),
    "f2": ((8, 16), 0.61, 0.9, 1.0),
    "ms": ((8, 6, 8, 8), 0.83, 0.3, 1.0),
    "mt": ((8, 12, 4, 4), 0.47, 0.6, 1.0),
    "s2": ((8, 6, 4, 4), 0.53, 0.8, 1.0),
    "t2": ((8, 6, 4, 4), 0.71, 0.5, 1.0),
    "s3": ((8, 8, 4, 4), 0.59, 0.25, 1.0),
    "t3": ((8, 8, 4, 4), 0.43, 0.15, 1.0),
    "h1": ((8, 6, 8, 8), 0.91, 0.35, 1.0),
    "h2": ((8, 6, 8, 8), 0.67, 0.45, 1.0),
    "S": ((2, 5, 12), 1.21, 0.31, 2.0),
    "T": ((2, 5, 12), 0.87, 0.41, 2.0),
    "hs": ((2, 5, 8), 0.73, 0.11, 1.0),
    "ht": ((2, 5, 8), 0.57, 0.21, 1.0),
    "As": ((2, 3, 5, 5), 0.63, 0.27, 1.0),
    "At": ((2, 3, 5, 5), 0.49, 0.33, 1.0),
}
LABELS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
MASKS = {  # of tokens: those that have a label, and those that are no padding
    "labels": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 1]]).bool(),
    "attention": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool(),
}


def wave(name: str) -> Tensor:
    shape, a, b, s = WAVES[name]
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (s * torch.sin(a * k + b) + 0.5 * s * torch.sin(0.37 * a * k * 1.7 + 2 * b)).reshape(shape)


@dataclass(frozen=True)
class Golden:
    """terms: the losses that the case is the sum of, each (kind, parameters, weight). student, teacher, mask:
    names in WAVES and MASKS. rel: tolerance; more than 1e-7 where the reference sums in float32."""

    name: str
    repo: str
    commit: str
    file: str
    terms: list[tuple[str, dict[str, Any], float]]
    student: list[str]
    teacher: list[str]
    value: float
    norm: float
    head: list[float]
    mask: str = ""
    labels: bool = False
    with_entropy: bool = False  # the reference's value has the teacher's mean entropy in it
    rel: float = 1e-7


CASES = [
    Golden(
        name="kd_T1", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/KD.py",
        terms=[("kd", {"temperature": 1.0}, 1.0)], student=["zs"], teacher=["zt"], value=2.770979309192868,
        norm=0.2468399298613642,
        head=[-0.0217899160780869, 0.0301836913546962, 0.000523911676680874, -0.000262225054969002],
    ),
    Golden(
        name="kd_T4", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/KD.py",
        terms=[("kd", {"temperature": 4.0}, 1.0)], student=["zs"], teacher=["zt"], value=4.805483564499525,
        norm=0.3436830322996566,
        head=[-0.0275428031710231, 0.0175139661530216, 0.00516726889202107, -0.0048841077641629],
    ),
    Golden(
        name="kd_alpha0.3_T4", repo="yoshitomo-matsubara/torchdistill", commit="3e4373c45214",
        file="torchdistill/losses/mid_level.py:KDLoss",
        terms=[("cross_entropy", {}, 0.3), ("kd", {"temperature": 4.0}, 0.7)], student=["zs"], teacher=["zt"],
        value=4.6025746396660585, norm=0.2897331312380791,
        head=[-0.018103107765178, 0.0417086112388587, 0.00739311724321693, -0.0408712962751362], labels=True,
    ),
    Golden(
        name="logit_mse", repo="airaria/TextBrewer", commit="2c105fa664bb",
        file="src/textbrewer/losses.py:kd_mse_loss", terms=[("logit_mse", {"center": False}, 1.0)],
        student=["zs"], teacher=["zt"], value=11.008077223137983, norm=0.7418920818804438,
        head=[-0.0557673037711901, 0.000422609592641376, -0.00770018680177361, -0.0331591370261545],
    ),
    Golden(
        name="dkd_a1_b8_T4", repo="megvii-research/mdistiller", commit="a08d46f10d61",
        file="mdistiller/distillers/DKD.py",
        terms=[("dkd", {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}, 1.0)], student=["zs"], teacher=["zt"],
        value=39.52192462226769, norm=2.955594580601578,
        head=[-0.238342002127418, 0.139441261273529, 0.0382784322744901, -0.0048841077641629], labels=True,
    ),
    Golden(
        name="dist_tau1", repo="hunto/DIST_KD", commit="2418f18b1fed", file="segmentation/losses/dist_kd.py",
        terms=[("dist", {"temperature": 1.0, "beta": 1.0, "gamma": 1.0}, 1.0)], student=["zs"],
        teacher=["zt"], value=1.6573070926766005, norm=0.09292494957494751,
        head=[-0.00578865666914595, -0.00543980998087088, -0.00198819766963745, 0.000222138946913165],
    ),
    Golden(
        name="lskd_T2", repo="sunshangquan/logit-standardization-KD", commit="f6e5aa5172ba",
        file="mdistiller/distillers/KD.py", terms=[("kd", {"temperature": 2.0, "standardize": True}, 1.0)],
        student=["zs"], teacher=["zt"], value=0.7972777042814295, norm=0.03790027350459452,
        head=[-0.00516953688480346, 0.000643869001967044, -0.00107077310069155, 0.000681940661937458],
    ),
    Golden(
        name="at_p2", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/AT.py",
        terms=[("attention_transfer", {"p": 2}, 1.0)], student=["ms"], teacher=["mt"],
        value=0.01343357311159437, norm=0.0025560516667380443,
        head=[-4.44233999940544e-05, -4.44233999940544e-05, 5.92104366779713e-05, 5.92104366779713e-05],
    ),
    Golden(
        name="sp", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/SP.py",
        terms=[("similarity", {}, 1.0)], student=["ms"], teacher=["mt"], value=0.20812787533981175,
        norm=0.0038620718781544406,
        head=[-7.45573718979308e-05, -8.22251838543995e-06, 5.89058374575356e-05, 7.62313088089711e-05],
    ),
    Golden(
        name="rkd_d25_a50", repo="HobbitLong/RepDistiller", commit="b84f547c5db6",
        file="distiller_zoo/RKD.py", terms=[("rkd", {"distance": 25, "angle": 50}, 1.0)], student=["fs"],
        teacher=["ft"], value=9.898995569436353, norm=1.655252234222839,
        head=[-0.0788251074865435, -0.159960023106439, -0.141169338352029, 0.0159925583564576],
    ),
    Golden(
        name="pkt", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/PKT.py",
        terms=[("pkt", {}, 1.0)], student=["fs"], teacher=["ft"], value=0.06596942848577947,
        norm=0.009381999826434232,
        head=[0.00142549276356362, -0.000101522753148617, -0.00158516067386807, -0.00133258768156529],
    ),
    Golden(
        name="ft_paper", repo="AberHu/Knowledge-Distillation-Zoo", commit="65470c846c13",
        file="kd_losses/ft.py", terms=[("factor_transfer", {}, 1.0)], student=["s2"], teacher=["t2"],
        value=0.11722906192982747, norm=0.0037607292226153406,
        head=[-2.43214395567436e-06, -3.32443895298568e-05, -0.0003535918663972, 3.60501011448278e-05],
    ),
    Golden(
        name="fsp", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/FSP.py",
        terms=[("fsp", {}, 1.0)], student=["s2", "s3"], teacher=["t2", "t3"], value=0.21061577683688873,
        norm=0.02051290811637818,
        head=[0.000735627074156032, 0.00141648052426783, 0.00165661528821736, 0.00135374583909712],
    ),
    Golden(
        name="nst", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/NST.py",
        terms=[("nst", {}, 1.0)], student=["s2"], teacher=["t3"], value=0.15280098833384848,
        norm=0.029954842602004227,
        head=[-0.00123111052191854, -0.000388939119645338, 0.000293366208266027, 0.000638302920193916],
    ),
    Golden(
        name="review_hcl", repo="megvii-research/mdistiller", commit="a08d46f10d61",
        file="mdistiller/distillers/ReviewKD.py:hcl_loss", terms=[("review", {}, 1.0)], student=["h1"],
        teacher=["h2"], value=0.8747331897017026, norm=0.028842069999181763,
        head=[3.63408825509691e-05, 0.000108209235412277, -0.000155532172975119, -0.000325694984876966],
    ),
    Golden(
        name="cwd_tau4", repo="open-mmlab/mmrazor", commit="90c7af1fdf35",
        file="mmrazor/models/losses/cwd.py", terms=[("cwd", {"tau": 4.0}, 1.0)], student=["h1"],
        teacher=["h2"], value=0.6206193912320087, norm=0.02012756554331556,
        head=[-5.35525361592934e-05, 2.99692001539903e-05, -6.28460385945085e-05, -0.0002390783043176],
    ),
    Golden(
        name="llm_rkl", repo="jongwooko/distillm", commit="d47e77ff9d27", file="distillm/losses.py",
        terms=[("reverse_kl", {}, 1.0)], student=["S"], teacher=["T"], value=1.7178553342819214,
        norm=0.23340010753153992, head=[0.0, 0.0, 0.0, 0.0], mask="labels", rel=2e-05,
    ),
    Golden(
        name="llm_skl_0.1", repo="jongwooko/distillm", commit="d47e77ff9d27", file="distillm/losses.py",
        terms=[("skew_kl", {"alpha": 0.1}, 1.0)], student=["S"], teacher=["T"], value=2.792332410812378,
        norm=0.10511548194800752, head=[0.0, 0.0, 0.0, 0.0], mask="labels", with_entropy=True, rel=2e-05,
    ),
    Golden(
        name="gjsd_beta0", repo="huggingface/trl", commit="f2cd57710ae3",
        file="trl/experimental/gkd/gkd_trainer.py", terms=[("jsd", {"beta": 0.0}, 1.0)], student=["S"],
        teacher=["T"], value=1.7205525988347017, norm=0.21710415763019214, head=[0.0, 0.0, 0.0, 0.0],
        mask="labels",
    ),
    Golden(
        name="gjsd_beta0.5", repo="huggingface/trl", commit="f2cd57710ae3",
        file="trl/experimental/gkd/gkd_trainer.py", terms=[("jsd", {"beta": 0.5, "normalize": False}, 1.0)],
        student=["S"], teacher=["T"], value=0.3101952113509506, norm=0.03085938547669159,
        head=[0.0, 0.0, 0.0, 0.0], mask="labels",
    ),
    Golden(
        name="hidden_mse_masked", repo="airaria/TextBrewer", commit="2c105fa664bb",
        file="src/textbrewer/losses.py:hid_mse_loss", terms=[("hidden_mse", {}, 1.0)], student=["hs"],
        teacher=["ht"], value=0.980260276508566, norm=0.2475202361056271,
        head=[-0.0060452191874461, 0.000135018857365117, 0.000767028824056125, -0.00602204138823891],
        mask="attention",
    ),
    Golden(
        name="cosine_masked", repo="airaria/TextBrewer", commit="2c105fa664bb",
        file="src/textbrewer/losses.py:cos_loss", terms=[("hidden_cosine", {}, 1.0)], student=["hs"],
        teacher=["ht"], value=0.8870359596628017, norm=0.1458072649574674,
        head=[-0.003637872507492, -0.00137161559320561, -0.0015624544807783, -0.00502743466607632],
        mask="attention",
    ),
    Golden(
        name="tvd", repo="jongwooko/distillm", commit="d47e77ff9d27", file="distillm/losses.py",
        terms=[("tvd", {}, 1.0)], student=["S"], teacher=["T"], value=0.663810172826228,
        norm=0.0525834854090236, head=[-0.0, 0.0, -0.0, -0.0], mask="labels",
    ),
    Golden(
        name="skew_reverse_0.1", repo="jongwooko/distillm", commit="d47e77ff9d27", file="distillm/losses.py",
        terms=[("skew_kl", {"alpha": 0.1, "reverse": True}, 1.0)], student=["S"], teacher=["T"],
        value=1.043760947205996, norm=0.10450839869813783, head=[0.0, 0.0, 0.0, 0.0], mask="labels",
    ),
    Golden(
        name="gjsd_beta0.1", repo="huggingface/trl", commit="f2cd57710ae3",
        file="trl/experimental/gkd/gkd_trainer.py", terms=[("jsd", {"beta": 0.1, "normalize": False}, 1.0)],
        student=["S"], teacher=["T"], value=0.12874030172791137, norm=0.013606541661869908,
        head=[0.0, 0.0, 0.0, 0.0], mask="labels",
    ),
    Golden(
        name="gjsd_beta0.9_T2", repo="huggingface/trl", commit="f2cd57710ae3",
        file="trl/experimental/gkd/gkd_trainer.py",
        terms=[("jsd", {"beta": 0.9, "temperature": 2.0, "normalize": False}, 1.0)], student=["S"],
        teacher=["T"], value=0.18066489162117377, norm=0.019691094528621576, head=[0.0, 0.0, 0.0, 0.0],
        mask="labels",
    ),
    Golden(
        name="gjsd_beta1.0", repo="huggingface/trl", commit="f2cd57710ae3",
        file="trl/experimental/gkd/gkd_trainer.py", terms=[("jsd", {"beta": 1.0}, 1.0)], student=["S"],
        teacher=["T"], value=1.7178552553993118, norm=0.23340008392466274, head=[0.0, 0.0, 0.0, 0.0],
        mask="labels",
    ),
    Golden(
        name="akl_0.5", repo="wutaiqiang/LLM_KD_AKL", commit="ff278be603df", file="AKL.py",
        terms=[("akl", {"mu": 0.5}, 1.0)], student=["S"], teacher=["T"], value=1.719677234677172,
        norm=0.21443134818122261, head=[0.0, 0.0, 0.0, 0.0], mask="labels",
    ),
    Golden(
        name="akl_0.8", repo="wutaiqiang/LLM_KD_AKL", commit="ff278be603df", file="AKL.py",
        terms=[("akl", {"mu": 0.8}, 1.0)], student=["S"], teacher=["T"], value=1.7266480450434734,
        norm=0.20975764986004306, head=[0.0, 0.0, 0.0, 0.0], mask="labels",
    ),
    Golden(
        name="wsld_T1", repo="open-mmlab/mmrazor", commit="90c7af1fdf35",
        file="mmrazor/models/losses/weighted_soft_label_distillation.py",
        terms=[("wsld", {"temperature": 1.0}, 1.0)], student=["zs"], teacher=["zt"], value=1.9222276129295846,
        norm=0.11441228469386489,
        head=[-0.0150364075672118, 0.0208286385071743, 0.000361531888033162, -0.000180951720360853],
        labels=True,
    ),
    Golden(
        name="wsld_T2", repo="open-mmlab/mmrazor", commit="90c7af1fdf35",
        file="mmrazor/models/losses/weighted_soft_label_distillation.py",
        terms=[("wsld", {"temperature": 2.0}, 1.0)], student=["zs"], teacher=["zt"], value=5.741373975183741,
        norm=0.14973617626158486,
        head=[-0.0193185233612908, 0.0206323364554821, 0.00382090755192047, -0.00134405604948512],
        labels=True,
    ),
    Golden(
        name="margin_mse", repo="huggingface/sentence-transformers", commit="cad211983f36",
        file="sentence_transformers/sentence_transformer/losses/margin_mse.py",
        terms=[("margin_mse", {}, 1.0)], student=["zs"], teacher=["zt"], value=24.354329380562053,
        norm=2.8726989608015208,
        head=[-0.527184142731467, 0.0624332370709239, 0.0534079077437961, 0.0251201852722617],
    ),
    Golden(
        name="score_kl_T1", repo="huggingface/sentence-transformers", commit="cad211983f36",
        file="sentence_transformers/sentence_transformer/losses/distill_kl_div.py",
        terms=[("score_kl", {"temperature": 1.0}, 1.0)], student=["zs"], teacher=["zt"],
        value=2.770979309192868, norm=0.2468399298613642,
        head=[-0.0217899160780869, 0.0301836913546962, 0.000523911676680874, -0.000262225054969002],
    ),
    Golden(
        name="score_kl_T2", repo="huggingface/sentence-transformers", commit="cad211983f36",
        file="sentence_transformers/sentence_transformer/losses/distill_kl_div.py",
        terms=[("score_kl", {"temperature": 2.0}, 1.0)], student=["zs"], teacher=["zt"],
        value=4.033227510139272, norm=0.31302114946163084,
        head=[-0.0279953174262851, 0.0298992214629876, 0.00553704430571737, -0.00194773042640772],
    ),
    Golden(
        name="ab", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/AB.py",
        terms=[("ab", {}, 1.0)], student=["s2", "s3"], teacher=["t2", "t3"], value=0.9451479408827103,
        norm=0.013230408501358818, head=[0.0, 0.0, 0.0, -2.230995847476e-05],
    ),
    Golden(
        name="correlation", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/CC.py",
        terms=[("correlation", {}, 1.0)], student=["fs"], teacher=["f2"], value=12.786038881318062,
        norm=2.9870000838097117,
        head=[-0.0893605100857627, 0.108901810370218, -0.228272931881821, -0.148627470875707],
    ),
    Golden(
        name="fitnet", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/FitNet.py",
        terms=[("fitnet", {}, 1.0)], student=["s2"], teacher=["t2"], value=1.244980079373215,
        norm=0.08052497281424871,
        head=[0.000825473597427407, 1.79108507213898e-05, -0.000186695617287956, 0.000238614046248271],
    ),
    Golden(
        name="vid_3", repo="HobbitLong/RepDistiller", commit="b84f547c5db6", file="distiller_zoo/VID.py",
        terms=[("vid", {"initial_variance": 3.0}, 1.0)], student=["s2"], teacher=["t2"],
        value=0.7568028242295908, norm=0.013420828802374784,
        head=[0.000137578932904568, 2.9851417868983e-06, -3.11159362146594e-05, 3.97690077080452e-05],
    ),
    Golden(
        name="pkd", repo="open-mmlab/mmrazor", commit="90c7af1fdf35",
        file="mmrazor/models/losses/pkd_loss.py", terms=[("pkd", {}, 1.0)], student=["h1"], teacher=["h2"],
        value=0.997905278596383, norm=0.022769641462321997,
        head=[-0.000421690439605386, -0.000712003060754833, -0.000756215908269888, -0.000536213325491632],
    ),
    Golden(
        name="attention_mse_masked", repo="airaria/TextBrewer", commit="2c105fa664bb",
        file="src/textbrewer/losses.py:att_mse_loss", terms=[("attention_mse", {}, 1.0)], student=["As"],
        teacher=["At"], value=1.1489612060441408, norm=0.21226705396224219,
        head=[-0.00209415729149407, 0.000841590510125874, 0.000791506648564409, -0.0], mask="attention",
    ),
]  # fmt: skip


def computed(case: Golden) -> tuple[float, Tensor]:
    """What this catalog gives in the case's place: the value and its gradient."""
    student, teacher = [wave(name) for name in case.student], [wave(name) for name in case.teacher]
    student[0].requires_grad_()
    options: dict[str, Any] = {"labels": LABELS} if case.labels else {}
    total: Any = 0
    for kind, parameters, weight in case.terms:
        value = sys.modules[LOSSES[kind].__module__].value
        total = total + weight * value(student, teacher, MASKS.get(case.mask), **options, **parameters)
    total.backward()
    assert student[0].grad is not None
    return total.item(), student[0].grad


def difference(case: Golden) -> float:
    """The largest relative difference of value and gradient; single numbers are held to its norm."""
    value, gradient = computed(case)
    expected = case.value
    if case.with_entropy:
        log_p = wave(case.teacher[0])[MASKS[case.mask]].log_softmax(-1)
        expected += (log_p.exp() * log_p).sum(-1).mean().item()
    numbers = zip(gradient.flatten()[:4].tolist(), case.head, strict=True)
    largest: float = max(
        abs(value - expected) / abs(expected),
        abs(float(gradient.norm()) - case.norm) / case.norm,
        max(abs(one - other) for one, other in numbers) / case.norm,
    )
    return largest
