"""Export of a student: ONNX, TorchScript, MONAI bundle."""
