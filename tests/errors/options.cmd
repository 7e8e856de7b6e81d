specc explain S9999
specc bench tiny.artifact --against torhc
specc bench tiny.artifact --shapes n=2
specc show tiny.artifact --at reparam
specc import cut.onnx --input 1x3x8x8 -o net.specc
specc check zoo:repvitt
specc bench tiny.specc:small --precision bf16 --against onnxruntime
