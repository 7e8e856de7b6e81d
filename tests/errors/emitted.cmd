specc compile emitted.specc --emit onnx -o loop.onnx
specc bench emitted.specc --against onnxruntime --seconds 0
