"""Measurements of segbook beside fastai, segmentation-models-pytorch, torchmetrics and MONAI.

`python -m bench` lists them, runs those named and draws their curves; see bench/__main__.py."""
