specc compile tiny.specc:small --precision int4 -o a
specc compile tiny.specc:small --bound 0.1 -o a
specc compile tiny.specc:small --precision int8 --calibrate absent.npz -o a
specc compile tiny.specc:small --precision int8 --calibrate misnamed.npz -o a
specc compile tiny.specc:small --precision int8 --calibrate misshapen.npz -o a
specc compile tiny.specc:small --precision int8 --calibrate nan.npz -o a
specc compile tiny.specc:small --precision int8 --passes fusion -o a
specc compile tiny.specc:small --precision bf16 --passes fusion -o a
