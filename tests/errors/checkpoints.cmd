specc compile tiny.specc:small --weights absent.safetensors -o a
specc compile tiny.specc:small --weights tiny.specc -o a
specc compile tiny.specc:small --weights cut.safetensors -o a
specc compile tiny.specc:small --weights two.pt -o a
specc compile tiny.specc:small --weights code.pt -o a
specc compile tiny.specc:small --weights misnamed.safetensors -o a
specc compile tiny.specc:small --weights prefixed.safetensors -o a
specc compile tiny.specc:small --weights infinite.safetensors -o a
specc compile tiny.specc:small --weights negative.safetensors --target x86-64-v4 -o a
