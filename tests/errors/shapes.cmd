specc compile tiny.specc:small --shapes z=3 -o a
specc compile shapes.specc --shapes n=2 -o a
specc compile tiny.specc:small --shapes h=99999999 -o a
specc compile tiny.specc:small --shapes n=4 --shapes n=1,h=8 --shapes w=8,n=4 -o a
