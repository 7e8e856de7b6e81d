specc run tiny.artifact --inputs members.npz
specc run tiny.artifact --inputs endless.npz
specc run tiny.artifact --inputs overflowing.npz
specc run tiny.artifact --inputs short.npz
specc run tiny.artifact --inputs encrypted.npz
specc run tiny.artifact --inputs header.npz
specc run tiny.artifact --inputs letters.npz
specc run tiny.artifact --inputs scalar.npz
specc run tiny.artifact --inputs image.npz --assert-outputs letters_out.npz
specc run tiny.artifact --inputs image.npz --assert-outputs members.npz
specc compile tiny.specc:small --weights endless.npz -o a
specc compile tiny.specc:small --weights encrypted.npz -o a
specc compile tiny.specc:small --weights pointer.safetensors -o a
specc compile tiny.specc:small --weights empty.safetensors -o a
specc compile tiny.specc:small --weights transposed.safetensors -o a
specc compile tiny.specc:small --weights integers.safetensors -o a
specc compile tiny.specc:small --precision int8 --calibrate members.npz -o a
specc compile tiny.specc:small --precision int8 --calibrate endless.npz -o a
specc compile tiny.specc:small --precision int8 --calibrate letters.npz -o a
specc compile tiny.specc:small --precision int8 --calibrate scalar.npz -o a
