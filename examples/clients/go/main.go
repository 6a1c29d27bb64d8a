// Creates a client's record at a gateway, and reads a refusal.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	domain "gatehouse.example/client/gen/gatehouse/domain/v1"
	gateway "gatehouse.example/client/gen/gatehouse/gateway/v1"
)

func main() {
	address, token, configFile, name := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	config, err := os.ReadFile(configFile)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(address,
		// On this machine alone; elsewhere credentials.NewTLS.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(string(config)))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	client := gateway.NewGatewayServiceClient(connection)

	fields, err := structpb.NewStruct(map[string]any{"name": name})
	if err != nil {
		log.Fatal(err)
	}
	create := &gateway.Operation{Domain: "clients", Verb: domain.Verb_VERB_CREATE, Fields: fields}
	request := &gateway.ExecuteRequest{
		RequestId: "create-" + name,
		Input:     &gateway.ExecuteRequest_Operations{Operations: &gateway.OperationList{Operations: []*gateway.Operation{create}}},
	}
	answer, err := execute(client, token, request)
	if err != nil {
		log.Fatal(err)
	}
	if confirmation := answer.GetConfirmation(); confirmation != nil {
		answer, err = execute(client, token, &gateway.ExecuteRequest{
			RequestId: request.RequestId, ConfirmationToken: confirmation.ConfirmationToken})
		if err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(answer.GetReport().GetOutcome())

	_, err = execute(client, "no token", request)
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			fmt.Println(info.Reason)
		}
	}
}

func execute(client gateway.GatewayServiceClient, token string, request *gateway.ExecuteRequest) (*gateway.ExecuteResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return client.Execute(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), request)
}
