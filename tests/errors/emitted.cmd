specc compile emitted.specc --emit onnx -o loop.onnx
