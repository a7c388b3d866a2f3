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
    "images": "图片",
    "epochs": "轮数",
    "minutes": "分钟",
    "without the cache (s)": "不用缓存（秒）",
    "with it (s)": "使用缓存（秒）",
    "speedup": "加速比",
    "model, input size": "模型，输入尺寸",
    "PyTorch alone (ms/image)": "仅 PyTorch（毫秒/张）",
    "mnv2zoo (ms/image)": "mnv2zoo（毫秒/张）",
    "what was trained": "训练的部分",
    "validation top-1 (%)": "验证集 top-1（%）",
    "test top-1 (%)": "测试集 top-1（%）",
    "test top-1, coarse (%)": "测试集粗类 top-1（%）",
    "layer": "层",
    "stride in the paper": "论文中的步长",
    "output in the paper": "论文中的输出",
    "output in the tutorial": "教程中的输出",
    "difference": "差异",
    "model": "模型",
    "parameters": "参数",
    "GMACs at 224 pixels": "224 像素时的 GMACs",
    "unit of the split": "划分单位",
    "folds": "折数",
    "balanced accuracy (%)": "平衡准确率（%）",
    "option": "选项",
    # cells
    "defaults": "默认值",
    "single images": "单张图片",
    "series of ten images": "连续十张图片",
    "pinned": "已固定哈希",
    "first use": "首次使用时信任",
    "none yet": "暂无",
    "bias, ReLU": "偏置，ReLU",
    "expansion from 32 to 32 channels": "32 到 32 通道的扩展层",
    "stride 1 instead of 2, twice the height and width": "步长为 1 而非 2，高宽加倍",
    "twice the height and width": "高宽加倍",
    "stride 2 instead of 1": "步长为 2 而非 1",
    "paper's model with 20 classes": "论文的模型，20 类",
    "stride 2 in `Bottleneck_11` instead of `Bottleneck_7`": "步长 2 位于 `Bottleneck_11` 而非 `Bottleneck_7`",
    "expansion in `Bottleneck_1`": "`Bottleneck_1` 带扩展层",
    "biases in `C1` and `C2`": "`C1` 和 `C2` 带偏置",
    "batch norm and ReLU after the classifier `C3`": "分类器 `C3` 之后的批归一化和 ReLU",
    "ReLU instead of ReLU6": "用 ReLU 代替 ReLU6",
    "all five: the tutorial's model": "全部五处：教程的模型",
    "classifier, on cached features": "分类器，使用缓存的特征",
    "`Bottleneck_8` and all later layers": "`Bottleneck_8` 及之后的所有层",
    "all layers": "所有层",
    "all layers, validation images included": "所有层，并使用验证图片",
    "loss": "损失函数",
    "scenes": "场景",
    "labels": "标签",
    "validation mAP (%)": "验证 mAP（%）",
    "test mAP (%)": "测试 mAP（%）",
    "test micro F1 (%)": "测试微平均 F1（%）",
    "test macro F1 (%)": "测试宏平均 F1（%）",
    "initial weights": "初始化权重",
    "input (px)": "输入（像素）",
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
