// The file of one tile to a served model: the number of pixels of each label. Stubs and build: the Makefile beside it.
import com.google.protobuf.ByteString;
import inference.GRPCInferenceServiceGrpc;
import inference.GrpcService.ModelInferRequest;
import inference.GrpcService.ModelInferResponse;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;

public final class Segment {
  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 3) {
      System.err.println("usage: Segment HOST:PORT MODEL FILE");
      System.exit(2);
    }
    byte[] file = Files.readAllBytes(Path.of(arguments[2]));
    // KServe's BYTES: each element behind its length.
    ByteBuffer element = ByteBuffer.allocate(4 + file.length).order(ByteOrder.LITTLE_ENDIAN).putInt(file.length).put(file).flip();
    ModelInferRequest request =
        ModelInferRequest.newBuilder()
            .setModelName(arguments[1])
            .addInputs(ModelInferRequest.InferInputTensor.newBuilder().setName("IMAGE").setDatatype("BYTES").addShape(1).addShape(1))
            .addOutputs(ModelInferRequest.InferRequestedOutputTensor.newBuilder().setName("LABELS"))
            .addRawInputContents(ByteString.copyFrom(element))
            .build();
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().maxInboundMessageSize(Integer.MAX_VALUE).build();
    try {
      // No deadline and no cancel: Triton before 2.53 can crash on either. Errors: the page's table, by StatusRuntimeException.getStatus().
      ModelInferResponse response = GRPCInferenceServiceGrpc.newBlockingStub(channel).modelInfer(request);
      int[] counts = new int[256];
      for (byte label : response.getRawOutputContents(0)) counts[Byte.toUnsignedInt(label)]++;
      for (int label = 0; label < counts.length; label++) if (counts[label] > 0) System.out.println("label " + label + ": " + counts[label] + " pixels");
    } finally {
      channel.shutdown();
    }
  }
}
