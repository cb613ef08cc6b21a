// d2quant chat: a conversation on the terminal, or one turn a line of piped stdin.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/file_io.h"
#include "cli/commands.h"
#include "cli/generate_options.h"
#include "cli/interrupt.h"
#include "cli/line_reader.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "engine/chat_session.h"

namespace d2q::cli {
namespace {

constexpr const char* kHelp =
    "/reset          forget the conversation; the system prompt stays\n"
    "/system [TEXT]  set the system prompt; without TEXT, remove it\n"
    "/save FILE      write the conversation as JSON\n"
    "/help           this list\n"
    "/quit           end (Ctrl-D too)\n"
    "Ctrl-C stops a reply. A line that ends in \\ goes on in the next. //text sends /text.\n";

struct ChatCommand {
  std::string model;
  std::string system;
  std::string template_file;
  std::vector<std::string> variables;
  std::string precision = "auto";
  CacheType cache = CacheType::kF16;
  GenerateOptions options;
  int64_t context = 0;
};

/// "NAME=VALUE" of the template's variables; VALUE is JSON, or else a text.
nlohmann::ordered_json parse_variables(const std::vector<std::string>& pairs) {
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    if (equals == 0 || equals == std::string::npos) {
      throw UsageError(fmt::format("--template-var: '{}' is not NAME=VALUE", pair));
    }
    const std::string value = pair.substr(equals + 1);
    auto json = nlohmann::ordered_json::parse(value, nullptr, /*allow_exceptions=*/false);
    variables[pair.substr(0, equals)] =
        json.is_discarded() ? nlohmann::ordered_json(value) : std::move(json);
  }
  return variables;
}

ChatTemplate find_template(const ChatCommand& command) {
  if (!command.template_file.empty()) {
    return load_chat_template_file(command.template_file, command.model);
  }
  std::optional<ChatTemplate> found = load_chat_template(command.model);
  if (!found) {
    fail(ErrorCode::kNotFound,
         "{}: it has no chat template; a base model? Give one with --chat-template, or continue "
         "text with d2quant run",
         command.model);
  }
  return *std::move(found);
}

class ChatLoop {
 public:
  ChatLoop(ChatSession& session, const GlobalOptions& global)
      : session_(session), global_(global), on_terminal_(::isatty(STDIN_FILENO) != 0) {}

  void run() {
    if (on_terminal_) show("/help lists the commands.\n");
    std::string text;
    while (read_turn(text)) {
      if (text.starts_with('/') && !text.starts_with("//")) {
        if (!obey(text)) return;
      } else if (!text.empty()) {
        answer(text.starts_with("//") ? text.substr(1) : text);
      }
    }
  }

 private:
  static void show(const std::string& note) { std::fputs(note.c_str(), stderr); }

  /// A line, with those that follow a '\' at its end. False at the end of the input, and at the
  /// second Ctrl-C without a line between.
  bool read_turn(std::string& text) {
    text.clear();
    std::string line;
    bool interrupted_before = false;
    while (true) {
      handle_interrupts(/*end_reads=*/true);
      if (on_terminal_) {
        print(text.empty() ? "> " : ". ");
        finish_output();
      }
      const LineReader::Status status = reader_.read(line);
      if (status == LineReader::Status::kEnd) return !text.empty();
      if (status == LineReader::Status::kInterrupted) {
        if (interrupted_before) throw_if_interrupted();
        show("\n(Ctrl-C again or /quit ends)\n");
        interrupted_before = true;
        text.clear();
        continue;
      }
      if (line.ends_with('\r')) line.pop_back();
      const bool goes_on = line.ends_with('\\');
      if (goes_on) line.back() = '\n';
      text += line;
      if (!goes_on) return true;
    }
  }

  /// False when the conversation is over.
  bool obey(const std::string& line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string command = line.substr(0, space);
    const std::string argument = line.substr(std::min(space + 1, line.size()));
    if (command == "/quit" || command == "/exit") return false;
    if (command == "/reset") {
      session_.reset();
      show("(the conversation is forgotten)\n");
    } else if (command == "/system") {
      session_.set_system(argument);
      show(argument.empty() ? "(no system prompt)\n" : "(the system prompt is set)\n");
    } else if (command == "/save") {
      report_errors([&] { save(argument); });
    } else {
      show(command == "/help" ? kHelp : "(no such command; /help lists them)\n");
    }
    return true;
  }

  void save(const std::string& file) {
    if (file.empty()) fail(ErrorCode::kInvalidArgument, "/save wants a file's name");
    if (file != saved_ && std::filesystem::exists(file)) {
      fail(ErrorCode::kInvalidArgument, "{}: it is there already; choose another name", file);
    }
    write_file_atomically(file, json_text(session_.messages()));
    saved_ = file;
    show(fmt::format("(saved in {})\n", file));
  }

  void answer(const std::string& text) {
    handle_interrupts();
    report_errors([&] {
      const int64_t dropped_before = session_.n_dropped();
      bool at_start = true;
      const GenerateResult result = session_.reply(text, [&](std::string_view piece) {
        // SentencePiece models begin a reply with a space.
        if (at_start) piece.remove_prefix(std::min(piece.find_first_not_of(" \n"), piece.size()));
        at_start = at_start && piece.empty();
        print(piece);
        finish_output();
        return !interrupted();
      });
      print("\n");
      finish_output();
      note(result, session_.n_dropped() - dropped_before);
    });
  }

  void note(const GenerateResult& result, int64_t n_dropped) {
    if (n_dropped > 0) {
      show(fmt::format("(the context is full: the {} oldest turns were dropped)\n", n_dropped));
    }
    if (result.reason == StopReason::kCallback || interrupted()) show("(stopped)\n");
    if (result.tokens.size() < 2) return;
    show_note(
        global_.progress,
        fmt::format("{} prompt tokens ({} new) in {:.2f} s, then {:.1f} tokens/s, ended by {}",
                    result.prompt_tokens, result.prompt_tokens - result.reused_tokens,
                    result.prompt_seconds,
                    static_cast<double>(result.tokens.size() - 1) / result.generate_seconds,
                    to_string(result.reason)));
  }

  /// On a terminal a failed turn is told and the conversation goes on; a script fails with it.
  template <typename Work>
  void report_errors(Work work) {
    try {
      work();
    } catch (const Error& error) {
      if (!on_terminal_) throw;
      show(fmt::format("({})\n", error.what()));
    }
  }

  ChatSession& session_;
  const GlobalOptions& global_;
  LineReader reader_;
  const bool on_terminal_;
  std::string saved_;
};

void chat(ChatCommand& command, const GlobalOptions& global) {
  as_usage([&] { validate(command.options.sampling); });
  nlohmann::ordered_json variables = parse_variables(command.variables);
  check_model_exists(command.model);
  const ChatTemplate chat_template = find_template(command);
  Runtime runtime(global);
  LoadedModel model(runtime, command.model, fast_products(runtime, command.precision));
  const ModelConfig& config = model.source->config();
  constexpr int64_t kDefaultContext = 4096;
  const int64_t context = context_length(config, command.context, kDefaultContext);
  command.options.stop_tokens = config.eos_tokens;
  command.options.should_stop = interrupted;
  const auto sequence = make_sequence(runtime.device(), model.transformer, context, command.cache);
  ChatSession session(*sequence, *model.tokenizer, chat_template, command.options,
                      std::move(variables));
  session.set_system(command.system);
  ChatLoop(session, global).run();
}

}  // namespace

void add_chat_command(CLI::App& app, Program& program) {
  CLI::App& chat_app =
      add_command(app, "chat", "Talk with a model",
                  "  d2quant chat model-2bit --system \"Answer in one sentence.\"\n"
                  "  printf 'What is 2+2?\\nAnd 3+3?\\n' | d2quant chat model.gguf --temp 0");
  auto command = std::make_shared<ChatCommand>();
  command->options.max_tokens = 1024;
  chat_app.add_option("MODEL", command->model, "Model folder or GGUF file")->required();
  chat_app.add_option("--system", command->system, "System prompt");
  chat_app
      .add_option("--chat-template", command->template_file,
                  "File with a Jinja template, in place of the model's own")
      ->check(CLI::ExistingFile);
  chat_app
      .add_option("--template-var", command->variables,
                  "NAME=VALUE of a variable of the template, e.g. enable_thinking=false; may be "
                  "given again")
      ->take_all()
      ->expected(1);
  add_generate_options(chat_app, command->options);
  chat_app
      .add_option("--ctx", command->context,
                  "Size of the context in tokens; 0 is 4096, or the model's where that is less")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  add_cache_option(chat_app, command->cache);
  add_precision_option(chat_app, command->precision,
                       "bf16 where the device is faster with it, else f32");
  chat_app.callback([command, &program] {
    program.action = [command, &program] { chat(*command, program.global); };
  });
}

}  // namespace d2q::cli
