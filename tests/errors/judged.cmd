specc verify tiny.specc:small --tolerance 0
specc run other_sample.artifact --self-test
