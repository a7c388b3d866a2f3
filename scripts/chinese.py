"""The words of generated tables in Chinese, for the pages that are written in both languages."""

from __future__ import annotations

WORDS = {
    # headers
    "name": "名称",
    "params (M)": "参数（百万）",
    "weights": "权重",
    "top-1 (%)": "top-1（%）",
    "top-5 (%)": "top-5（%）",
    "ms": "毫秒",
    "trust": "校验依据",
    "license of the weights": "权重的许可证",
    "photos": "照片",
    "epochs": "轮数",
    "minutes": "分钟",
    "without the cache, s": "不用缓存（秒）",
    "with it, s": "使用缓存（秒）",
    "times faster": "加速倍数",
    "network, side of the images": "网络，图片边长",
    "PyTorch alone, ms an image": "仅 PyTorch（毫秒/张）",
    "kept": "保留内存",
    "trained": "训练的部分",
    "validation (%)": "验证（%）",
    "test, fine (%)": "测试，细类（%）",
    "test, coarse (%)": "测试，粗类（%）",
    "level": "层",
    "paper's stride": "论文的步长",
    "paper's map": "论文的特征图",
    "tutorial's map": "教程的特征图",
    "what differs": "不同之处",
    "network": "网络",
    "parameters": "参数",
    "million MACs at 224 pixels": "224 像素时的百万次乘加",
    "kept together": "不拆开的单位",
    "folds": "折数",
    "balanced accuracy (%)": "平衡准确率（%）",
    "trained with": "训练方式",
    # cells
    "the defaults": "默认值",
    "series of ten photos": "连续十张照片",
    "pinned": "已固定哈希",
    "first use": "首次使用时信任",
    "none yet": "暂无",
    "bias, ReLU": "偏置，ReLU",
    "an expansion from 32 to 32": "从 32 到 32 的扩展",
    "stride 1 for 2, twice the side": "步长 1 代替 2，边长两倍",
    "twice the side": "边长两倍",
    "stride 2 for 1": "步长 2 代替 1",
    "the paper's network, 20 classes": "论文的网络，20 类",
    "stride at `Bottleneck_11`, not 7": "步长在 `Bottleneck_11` 而不是 7",
    "expansion in `Bottleneck_1`": "`Bottleneck_1` 带扩展层",
    "biases in `C1` and `C2`": "`C1` 和 `C2` 带偏置",
    "batch norm and ReLU behind `C3`": "`C3` 之后的批归一化和 ReLU",
    "ReLU for ReLU6": "用 ReLU 代替 ReLU6",
    "all: the tutorial's network": "全部：教程的网络",
    "the classifier, on features computed once": "分类器，特征只计算一次",
    "from `Bottleneck_8` on": "从 `Bottleneck_8` 起",
    "everything": "全部",
    "everything, with the validation photos": "全部，并使用验证照片",
    "the classifier, with": "分类器，使用",
    "scenes": "场景",
    "labels": "标签",
    "validation mAP (%)": "验证 mAP（%）",
    "test mAP (%)": "测试 mAP（%）",
    "test micro F1 (%)": "测试微平均 F1（%）",
    "test macro F1 (%)": "测试宏平均 F1（%）",
    "start": "起点",
    "side": "边长",
    "learning rate": "学习率",
    "test (%)": "测试（%）",
    "random initialization": "随机初始化",
    "ImageNet weights of `mnv2zoo_100`": "`mnv2zoo_100` 的 ImageNet 权重",
    "`mnv2zoo_100`, 224 pixels": "`mnv2zoo_100`，224 像素",
    "`mnv2zoo_100_c20`, 64 pixels": "`mnv2zoo_100_c20`，64 像素",
}


def translate(table: str) -> str:
    """Puts known words in place of a Markdown table's cells; names and figures stay."""
    lines = []
    for line in table.splitlines():
        cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
        lines.append(f"| {' | '.join(WORDS.get(cell, cell) for cell in cells)} |" if line else line)
    return "\n".join([*lines, ""])
