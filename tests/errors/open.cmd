specc compile open.specc --shapes n=any,h=any -o a
specc compile open.specc --shapes n=any --target cuda:sm_90 -o a
specc compile open.specc --shapes n=any --strips 2 -o a
specc compile open.specc --shapes m=any -o a
