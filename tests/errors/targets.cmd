specc compile tiny.specc:small --target x86-64-v33 -o a
specc show tiny.specc:small --target x86-64-v33
