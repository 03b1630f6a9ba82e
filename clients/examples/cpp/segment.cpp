// The file of one tile to a served model: the number of pixels of each label. Stubs and build: the Makefile beside it.
//
//   make && ./segment localhost:8001 default_segment_image tile.png
#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <string>

#include "grpc_service.grpc.pb.h"

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: segment HOST:PORT MODEL FILE\n";
    return 2;
  }
  std::ifstream input(arguments[3], std::ios::binary);
  if (!input) {
    std::cerr << arguments[3] << ": expected an image file, cannot read it\n";
    return 1;
  }
  const std::string file{std::istreambuf_iterator<char>(input), {}};
  // KServe's BYTES: each element behind its length, lowest byte first.
  std::string element;
  for (int shift = 0; shift < 32; shift += 8) element.push_back(static_cast<char>(file.size() >> shift & 0xff));
  element += file;

  inference::ModelInferRequest request;
  request.set_model_name(arguments[2]);
  auto* image = request.add_inputs();
  image->set_name("IMAGE");
  image->set_datatype("BYTES");
  image->add_shape(1);
  image->add_shape(1);
  request.add_outputs()->set_name("LABELS");
  request.add_raw_input_contents(element);

  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(-1);
  auto channel = grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), options);
  auto stub = inference::GRPCInferenceService::NewStub(channel);
  grpc::ClientContext context;  // no deadline and no cancel: Triton before 2.53 can crash on either
  inference::ModelInferResponse response;
  const grpc::Status status = stub->ModelInfer(&context, request, &response);
  if (!status.ok()) {  // the page's table of errors says what to do on each status
    std::cerr << "status " << status.error_code() << ": " << status.error_message() << "\n";
    return 1;
  }
  std::map<int, std::size_t> pixels;
  for (const unsigned char label : response.raw_output_contents(0)) pixels[label]++;
  for (const auto& [label, number] : pixels) std::cout << "label " << label << ": " << number << " pixels\n";
}
