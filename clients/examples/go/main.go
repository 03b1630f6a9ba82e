// The file of one tile to a served model: the number of pixels of each label. Never compiled: no Go was at hand.
//
//	go install google.golang.org/protobuf/cmd/protoc-gen-go@latest google.golang.org/grpc/cmd/protoc-gen-go-grpc@latest
//	protoc -I ../../protos --go_out=. --go-grpc_out=. --go_opt=Mgrpc_service.proto=./inference --go_opt=Mmodel_config.proto=./inference \
//	  --go-grpc_opt=Mgrpc_service.proto=./inference --go-grpc_opt=Mmodel_config.proto=./inference grpc_service.proto model_config.proto
//	go mod init example && go mod tidy && go run . localhost:8001 default_segment_image tile.png
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"

	"example/inference"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: go run . HOST:PORT MODEL FILE")
	}
	address, model, path := os.Args[1], os.Args[2], os.Args[3]
	file, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	// KServe's BYTES: each element behind its length.
	element := append(binary.LittleEndian.AppendUint32(nil, uint32(len(file))), file...)
	request := &inference.ModelInferRequest{
		ModelName:        model,
		Inputs:           []*inference.ModelInferRequest_InferInputTensor{{Name: "IMAGE", Datatype: "BYTES", Shape: []int64{1, 1}}},
		Outputs:          []*inference.ModelInferRequest_InferRequestedOutputTensor{{Name: "LABELS"}},
		RawInputContents: [][]byte{element},
	}
	// No deadline and no cancel: Triton before 2.53 can crash on either.
	response, err := inference.NewGRPCInferenceServiceClient(connection).ModelInfer(context.Background(), request)
	if err != nil {
		log.Fatal(err) // the page's table of errors says what to do on each status
	}
	counts := map[byte]int{}
	for _, label := range response.RawOutputContents[0] {
		counts[label]++
	}
	fmt.Println("pixels of each label:", counts)
}
