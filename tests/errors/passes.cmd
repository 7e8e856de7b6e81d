specc compile tiny.specc:small --passes reparm -o a
specc compile tiny.specc:small --passes 'layout{blokc=8}' -o a
specc compile tiny.specc:small --passes 'layout{block=wide}' -o a
specc compile tiny.specc:small --passes '-' -o a
specc show tiny.specc:small --at reparm
specc compile tiny.specc:small --passes 'strips{count=0}' -o a
specc compile tiny.specc:small --passes 'layout{block=-3}' -o a
specc show tiny.specc:small --at reparam -O0
specc compile tiny.specc:small --passes 'halve{dtype=int8}' -o a
specc show tiny.specc:small --passes reparm
specc show tiny.specc:small --explain spec
specc compile tiny.specc:small --strips 2 --peak 100 -o a
