specc check merge.specc
specc compile merge.specc -o a
