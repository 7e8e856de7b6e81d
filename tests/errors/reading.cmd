specc check absent.specc
specc check tiny.spec
specc check latin1.specc
specc check folder.specc
specc fmt folder.specc
specc run absent.artifact
specc import absent.onnx -o net.specc
