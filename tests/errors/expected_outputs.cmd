specc run tiny.artifact --inputs image.npz --assert-outputs misnamed.npz
specc run tiny.artifact --inputs image.npz --assert-outputs empty.npz
specc run tiny.artifact --inputs image.npz --assert-outputs outputs_of_others.npz
specc run tiny.artifact --inputs image.npz --assert-outputs outputs.npz
