specc compile tiny.specc:small -o absent/a
specc compile tiny.specc:small -o folder
specc compile tiny.specc:small -o ""
specc compile tiny.specc:small -o tiny.specc
specc run tiny.artifact --outputs absent/out.npz
specc unpack tiny.artifact -o absent/out
specc import nets_of_a_test:Net -o absent/net.specc
