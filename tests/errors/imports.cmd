specc import no_such_package_at_all:net -o net.specc
specc import nets_of_a_test -o net.specc
specc import 'nets_of_a_test:Net[0]' -o net.specc
specc import 'nets_of_a_test:Net(width=open("x"))' -o net.specc
specc import nets_of_a_test:Nat -o net.specc
specc import nets_of_a_test:number -o net.specc
specc import nets_of_a_test:gives_a_number -o net.specc
specc import nets_of_a_test:fails -o net.specc
specc import 'nets_of_a_test:Net(5, 6, 7)' -o net.specc
specc import nets_of_a_test:Decides --input 1x3x8x8 -o net.specc
specc import nets_of_a_test:Net --input 1x2x8x8 -o net.specc
specc import nets_of_a_test:Sorts --input 1x3x8x8 -o net.specc
specc import nets_of_a_test:Counts --input 1x3x8x8 -o net.specc
specc import cut.onnx -o net.specc
